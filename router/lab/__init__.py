"""The policy laboratory: stored traces run again under other policies, before modelled workers."""
