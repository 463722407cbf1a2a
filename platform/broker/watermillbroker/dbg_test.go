package watermillbroker_test
import ("testing";"time";"fmt";"context";"github.com/ThreeDotsLabs/watermill/pubsub/tests"
"github.com/nats-io/nats.go/jetstream"
"github.com/countermand/countermand/platform/broker/natsbroker"
"github.com/countermand/countermand/platform/embedded/embeddedtest"
)
func TestDbg(t *testing.T){
 conn,_:=embeddedtest.NATS(t).Connect()
 b,_:=natsbroker.New(conn,natsbroker.Config{})
 js,_:=jetstream.New(conn)
 pub,sub:=newPubSub(t,b,"dbg")
 topic:="watermill.x"
 b.Ensure(t.Context(),"watermill.x")
 s:=time.Now()
 tests.AddSimpleMessagesParallel(t,10000,pub,topic,20)
 fmt.Println("published",time.Since(s))
 m,_:=sub.Subscribe(context.Background(),topic)
 s=time.Now(); n:=0
 for time.Since(s)<40*time.Second && n<10000 {
  t0:=time.Now()
  select { case x:=<-m: x.Ack(); n++; case <-time.After(5*time.Second): fmt.Println("nothing for 5s at",n)
   st,_:=js.Stream(t.Context(),"countermand_watermill")
   l:=st.ListConsumers(t.Context())
   for ci:=range l.Info(){ if ci.NumPending>0||ci.NumAckPending>0 {fmt.Println(ci.Name,"pending",ci.NumPending,"ackpending",ci.NumAckPending,"waiting",ci.NumWaiting,"delivered",ci.Delivered.Stream,ci.Delivered.Consumer,"ackfloor",ci.AckFloor.Stream,ci.AckFloor.Consumer,"redeliv",ci.NumRedelivered)} }
  }
  if d:=time.Since(t0); d>100*time.Millisecond || n%1000==0 {fmt.Println(n, "waited",d, time.Since(s))}
 }
 sub.Close()
}
