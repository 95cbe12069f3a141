"""How the predictor is run: on KServe by manifests, on Ray Serve by an application."""
