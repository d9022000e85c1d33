"""The network between the machines: namespaces, names, and the web that they see."""
