"""`driftline demo`: a model, a server for it, and a year of flights, watched on real parts on one machine."""
