"""From rows to tables, verdicts and figures."""
