//! What every Adit role shares: command line, config, logs, metrics, health, keys.
