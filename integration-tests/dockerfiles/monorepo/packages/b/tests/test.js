// not in the image
