//! End-to-end scenarios with real guests.
