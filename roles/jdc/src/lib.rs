//! Job Declarator Client.
