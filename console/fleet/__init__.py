"""The mutual-TLS listener, the Defenders' live sessions, and commands to them."""
