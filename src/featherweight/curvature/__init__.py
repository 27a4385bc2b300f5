"""What the loss, or a layer's output, loses when weights change: second moments of inputs, Fisher, traces."""
