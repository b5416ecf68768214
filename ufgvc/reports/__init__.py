"""Pages, tables and figures made from numbers. Nothing here decides or stores."""
