"""Uploads: tickets, sessions, and the roads that bytes take."""
