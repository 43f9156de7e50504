//! ttrpc: the framing, client and server that both ends of the shim's seam share.
