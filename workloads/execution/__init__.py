"""How a layer with a mask is computed: by dense kernels on a weight with zeros, or by sparse kernels on stored values."""
