//! Job Declarator Server.
