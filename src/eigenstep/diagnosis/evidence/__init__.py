"""What a diagnosis rests on, each kind of evidence in a module: the play, the direction, rates, changes, orbits."""
