"""What the operators mean, in plain PyTorch: any type, any device. The oracle of every test."""
