"""The node beside the camera: the early stages, and the choice between answering and asking the cloud."""
