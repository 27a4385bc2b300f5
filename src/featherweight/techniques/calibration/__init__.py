"""What `calibrate` is made of: histograms of activations, ranges out of them, a look at the data."""
