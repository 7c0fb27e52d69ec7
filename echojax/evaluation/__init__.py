"""Evaluation by full ranking: ranks, metrics, intervals, baselines."""
