//! Owns the OpenPGP check: bytes + signature + certificate + time -> who signed, or why not.
