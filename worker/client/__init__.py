"""How a job is asked for, from async code and from any other."""
