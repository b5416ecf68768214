"""Clusters to run the jobs on: one machine (local.py), Kubernetes (kuberay/), a cloud (aws.yaml)."""
