"""The admin API: /tempo/v1/… for operators, and the health routes for an orchestrator."""
