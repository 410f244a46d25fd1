"""`python -m eigenstep`: the command line, where its script is not on the path."""

from eigenstep.cli import main

if __name__ == "__main__":
    main(prog_name="python -m eigenstep")
