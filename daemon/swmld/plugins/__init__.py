"""Plugins: what frameworks' files and processes look like, and what of a file is read next.

    interface   what a plugin is
"""
