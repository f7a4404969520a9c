"""Derivatives of the objective: flat parameters, gradients, curvature products, spectra, solvers."""
