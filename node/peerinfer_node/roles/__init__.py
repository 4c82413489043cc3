"""What a node does with its streams: coordinate, volunteer, serve blobs, tell who is there."""
