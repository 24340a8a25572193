"""Sends warnings of budgets to LIMITS_WEBHOOK.

messages.py   the text of a message, its signature, and one attempt to send it
sending.py    which messages are due, and what happens to them
"""

from app.services.webhook.messages import send_test_message
from app.services.webhook.sending import Webhook, start_webhook, stop_webhook

__all__ = ["Webhook", "send_test_message", "start_webhook", "stop_webhook"]
