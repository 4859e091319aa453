"""The generative models. Each is a prior over theta and a covariance given theta, and nothing else."""
