"""Code that is only there for speed: kernels for one kind of device, each held to plain operations before it is used."""
