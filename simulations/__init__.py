"""Stand-ins for the network between edge and cloud: a link that is as thin, far and shaky as asked."""
