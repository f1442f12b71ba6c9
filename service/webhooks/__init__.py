"""Webhooks by the Standard Webhooks specification: what a job's end puts into the outbox, a loop beside the requests
delivers, signed, to addresses that it may reach."""
