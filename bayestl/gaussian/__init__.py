"""The Gaussian engine: everything that is closed-form once theta is given."""
