"""REST handlers, their models and the route table. Handlers hold no logic."""
