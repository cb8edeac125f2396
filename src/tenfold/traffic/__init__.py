"""When requests come and how large they are: at random, or as a trace of real traffic tells."""
