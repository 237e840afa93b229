"""The Console's own certificate authorities: minted, sealed into the store, shown as files."""
