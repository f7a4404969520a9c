"""Certified unlearning: data deletion tickets in, certified models out."""
