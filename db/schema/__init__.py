"""Tables, views and the frozen records that leave this room."""
