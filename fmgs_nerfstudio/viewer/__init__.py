"""What the avatar adds to nerfstudio's viewer: above the model, owned by the pipeline."""
