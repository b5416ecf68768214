"""`ufgvc bench`: the speed of this machine, each figure compared with the usual alternative in the same run."""
