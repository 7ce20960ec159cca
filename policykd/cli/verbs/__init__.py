"""What each verb does, one module a verb, imported only when it runs; no verb calls another."""
