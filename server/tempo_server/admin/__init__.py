"""The admin API: /tempo/v1/… for operators, and the probes of an orchestrator."""
