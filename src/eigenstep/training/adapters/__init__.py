"""Where people train: callbacks for Lightning and Hugging Face, each in a module that imports its package."""
