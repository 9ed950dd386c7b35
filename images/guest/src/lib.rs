//! PID 1 of a sandbox, and the wire protocol that it shares with the worker.
