"""Dagster assets of your own, a file each; none are needed.

They can depend on the standard ones, stand before them or replace one: see the platform's
guide "Assets of your own".
"""
