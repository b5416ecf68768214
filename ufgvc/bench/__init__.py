"""`ufgvc bench`: what this machine can do, every figure beside what a user would pick instead, in one run."""
