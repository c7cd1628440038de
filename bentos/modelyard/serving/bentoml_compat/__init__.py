"""Every reliance on private parts of BentoML, uvicorn and prometheus_client; nowhere else."""
