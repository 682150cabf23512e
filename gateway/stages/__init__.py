"""The steps of a request's story, one file each. `gateway.pipeline.handle` tells the story; no stage knows another."""
