"""Published figures computed anew: data, images, weights, both searches, and the differences told."""
