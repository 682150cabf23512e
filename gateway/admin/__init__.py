"""What manages and shows the gateway: everything that is not a model route. One file a subject."""
