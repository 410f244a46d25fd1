"""From model, loss and data to a Spectrum, without forming the Hessian."""
