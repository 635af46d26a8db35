print("micro-sidecar")
