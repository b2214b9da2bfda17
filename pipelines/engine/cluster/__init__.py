"""Clusters: capacity, jobs, submissions, packaging, Kubernetes."""
