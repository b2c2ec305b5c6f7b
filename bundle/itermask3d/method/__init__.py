"""The method of the paper: tensors in, tensors out; it knows no file and no viewer."""
